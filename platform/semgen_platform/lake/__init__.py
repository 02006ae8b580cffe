"""The lake: tables with versions, volumes as OME-Zarr, and crops read straight from them (DESIGN.md section 4)."""
