-- Incidents and their notifications.
SELECT;
