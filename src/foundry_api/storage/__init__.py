"""Files that several processes share: paths, locks, private files and SQLite databases."""
