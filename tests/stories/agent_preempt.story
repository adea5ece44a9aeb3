# Tasks make room: what no rank has started goes back to the broker, what runs is ended.
agent n1 with 1 ranks

at 0.010  broker: Grant g1 1.0..4
  to r0     Bundle b1 1.0 attempt 1
at 0.020  r0: Done b1 1.0 NONE
  to r0     Bundle b2 1.1..3 attempt 1
  to r0     Bundle b3 1.4 attempt 1
  to broker Finished g1 1.0 NONE rank 0
  to broker Capacity 50 ranks=1
at 0.030  broker: Preempt g1 1.0..4
  to r0     Kill b2 1.2..3 RELEASED
  to r0     Kill b3 1.4 RELEASED
at 0.031  r0: Done b3 1.4 RELEASED
  to broker Finished g1 1.4 RELEASED
at 0.032  r0: Done b2 1.2..3 RELEASED
  to broker Finished g1 1.2..3 RELEASED
at 0.040  broker: Preempt g1 1.1 running=1
  to r0     Kill b2 1.1 PREEMPTED
at 0.050  r0: Done b2 1.1 PREEMPTED
  to broker Finished g1 1.1 PREEMPTED rank 0
at 0.060  broker: Preempt g1 1.1 running=1
