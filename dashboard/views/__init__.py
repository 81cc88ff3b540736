"""What the pages show; the files in `routes` only call `page()` of the module of the same name."""
