# An agent that has heard nothing for 0.8 of its lease ends what runs: the broker is about to give it to another.
limits heartbeat_s=3
agent n1 with 1 ranks

at 0.010  broker: Grant g1 1.0..1
  to r0     Bundle b1 1.0 attempt 1
at 3.000  time passes
  to r0     Beat
  to broker Beat runs 1.0
  do        Sample
at 4.500  time passes
at 6.000  time passes
  to r0     Beat
  to broker Beat runs 1.0
  to r0     Kill b1 1.0 PREEMPTED
  do        Sample
at 6.100  r0: Done b1 1.0 PREEMPTED
at 6.200  broker: Welcome epoch=2
  to broker Finished g1 1.1 RELEASED, g1 1.0 PREEMPTED rank 0
  to broker Capacity 2 ranks=1
