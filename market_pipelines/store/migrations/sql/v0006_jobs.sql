-- Jobs that people add at run time.
SELECT;
