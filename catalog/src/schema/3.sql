-- When a point came, by a clock that stands where the host's goes back: history is counted by it.
ALTER TABLE point ADD COLUMN timeline_ms INTEGER NOT NULL DEFAULT 0;
UPDATE point SET timeline_ms =
    (SELECT max(earlier.received_at_ms) FROM point AS earlier
     WHERE earlier.vm = point.vm AND earlier.sequence <= point.sequence);
