# Asked back, the agent hands over what no rank has, from the end, and asks its rank for what that has not started.
agent n1 with 1 ranks

at 0.010  broker: Grant g1 1.0..12
  to r0     Bundle b1 1.0 attempt 1
at 0.020  r0: Done b1 1.0 NONE
  to r0     Bundle b2 1.1..3 attempt 1
  to r0     Bundle b3 1.4..6 attempt 1
  to broker Finished g1 1.0 NONE rank 0
  to broker Capacity 50 ranks=1
at 0.030  broker: Recall 8
  to r0     Kill b3 1.5..6 RELEASED
  to broker Finished g1 1.7..12 RELEASED
at 0.040  r0: Done b3 1.5..6 RELEASED
  to broker Finished g1 1.5..6 RELEASED
at 0.050  broker: Cancel g1 1.0..1
  to r0     Kill b2 1.1 CANCELLED
at 0.060  r0: Done b2 1.1 CANCELLED
  to broker Finished g1 1.1 CANCELLED rank 0
at 0.070  r0: Done b2 1.2..3 NONE
  to broker Finished g1 1.2..3 NONE rank 0
