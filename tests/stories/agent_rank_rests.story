# A rank that the broker lets rest gets no tasks until the time is over.
agent n1 with 2 ranks

at 0.010  broker: Rest rank=0 seconds=0.5 reason=broken
  to broker Capacity 2 ranks=1, rank 0 rests for 0.5 s: broken
at 0.020  broker: Grant g1 1.0..1
  to r1     Bundle b1 1.0 attempt 1
at 0.520  time passes
  to r0     Beat
  to r1     Beat
  to broker Beat runs 1.0
  to r0     Bundle b2 1.1 attempt 1
  to broker Capacity 4 ranks=2
  do        Sample
