-- The sender's journal is a file (capture::journal).
DROP TABLE journal;
