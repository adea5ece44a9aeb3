# A task that takes the result of another here gets it from here, as soon as it is there.
agent n1 with 2 ranks

at 0.000  broker: Grant g1 1.0
  to r0     Bundle b1 1.0 attempt 1
at 0.010  broker: Grant g2 1.1..2 after=g1:1.0
at 0.020  broker: Grant g3 1.3 after=g2:1.2
at 0.100  r0: Done b1 1.0 NONE
  to r1     Bundle b2 1.1 attempt 1
  to r0     Bundle b3 1.2 attempt 1
  to broker Finished g1 1.0 NONE rank 0
  to broker Capacity 100 ranks=2
at 0.200  r1: Done b2 1.1 NONE
  to broker Finished g2 1.1 NONE rank 1
# One that does not complete: what follows it goes back unstarted, and what follows that.
at 0.300  broker: Grant g4 1.4 after=g3:1.3
  to r0     Beat
  to r1     Beat
  to broker Beat runs 1.2
  do        Sample
at 0.310  r0: Done b3 1.2 ERROR
  to broker Finished g2 1.2 ERROR rank 0, g3 1.3 RELEASED, g4 1.4 RELEASED
# The result is there when the grant comes; or it never comes.
at 0.400  broker: Grant g5 1.5 after=g2:1.1
  to r1     Bundle b4 1.5 attempt 1
at 0.500  broker: Kept g2 1.1..2
at 0.600  broker: Grant g6 1.6 after=g2:1.1
  to broker Finished g6 1.6 RELEASED
# What waits for a result is cancelled, or goes back with all that has not started.
at 0.700  broker: Grant g7 1.7..8 after=g5:1.5
at 0.710  broker: Cancel g7 1.7
  to broker Finished g7 1.7 CANCELLED
at 0.800  node: signal drain
  to broker Finished g7 1.8 RELEASED
  to broker Capacity 100 ranks=2 draining
