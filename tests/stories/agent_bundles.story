# The agent gives each rank one task of an unknown function, keeps outcomes until Kept, and offers them again.
agent n1 with 2 ranks

at 0.010  broker: Grant g1 1.0..2
  to r0     Bundle b1 1.0 attempt 1
  to r1     Bundle b2 1.1 attempt 1
at 0.100  r0: Done b1 1.0 NONE
  to r0     Bundle b3 1.2 attempt 1
  to broker Finished g1 1.0 NONE rank 0
  to broker Capacity 100 ranks=2
at 0.110  broker: Kept g1 1.0
at 0.200  r1: Done b2 1.1 CRASH
  to broker Finished g1 1.1 CRASH rank 1
at 0.300  r0: Done b3 1.2 NONE
  to r0     Beat
  to r1     Beat
  to broker Beat
  to broker Finished g1 1.2 NONE rank 0
  do        Sample
