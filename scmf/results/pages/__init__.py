"""Results as tables, pages and figures. A page never feeds a run."""
