"""The machine: work folder, Google Drive, packages, processes."""
