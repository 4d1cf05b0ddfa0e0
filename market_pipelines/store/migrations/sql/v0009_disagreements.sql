-- What providers say differently of the same bar.
SELECT;
