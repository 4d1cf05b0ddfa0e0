"""The history of the schema `market`: numbered steps, each a file of plain SQL that Alembic runs once."""
