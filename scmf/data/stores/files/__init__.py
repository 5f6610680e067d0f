"""Files here or far away read by byte ranges: object stores, fsspec, HTTP, retries."""
