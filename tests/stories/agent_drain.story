# A drain starts nothing new, hands back what has not started, lets the rest end, and leaves when all is kept.
agent n1 with 1 ranks allocation

at 0.010  broker: Grant g1 1.0..1
  to r0     Bundle b1 1.0 attempt 1
at 0.020  node: signal drain
  to broker Finished g1 1.1 RELEASED
  to broker Capacity 2 ranks=1 draining
at 0.030  broker: Grant g2 2.0
  to broker Finished g2 2.0 RELEASED
at 0.100  r0: Done b1 1.0 NONE
  to broker Finished g1 1.0 NONE rank 0
  to broker Capacity 50 ranks=1 draining
at 0.110  broker: Kept g1 1.0..1
at 0.120  broker: Kept g2 2.0
  to broker Beat
  to broker Goodbye walltime
  to r0     Stop
at 0.200  node: died r0
  stopped
