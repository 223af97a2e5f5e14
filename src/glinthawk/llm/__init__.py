"""The Python API. What users import of it is named in ``glinthawk`` itself."""
