-- What is known of each hole: when it was seen, asked for, and is asked for next.
SELECT;
