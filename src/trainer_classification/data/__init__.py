"""What a prepared dataset is: its source, manifest, tables and formats, and their readers."""
