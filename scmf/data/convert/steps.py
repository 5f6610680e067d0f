"""The steps of a conversion: decide, spool ``obs``, read, shuffle through the disk, write, read back, count.

Lives here: `Conversion`, which carries out what `scmf.data.convert.convert.convert` was asked for, and the report.
Lives elsewhere: the arguments and the folder (convert), what is decided before (convert_plan).
"""

from __future__ import annotations
