-- Views stand in the way of changes to their tables; every upgrade makes them again.
DROP VIEW IF EXISTS call, attempt, task;
