-- Decisions over quarantined rows, and who took them.
SELECT;
