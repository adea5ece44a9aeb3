# A rank dies: the task that ran is reported, those behind it go to other ranks, and the rank is replaced.
agent n1 with 2 ranks

at 0.010  broker: Grant g1 1.0..2
  to r0     Bundle b1 1.0 attempt 1
  to r1     Bundle b2 1.1 attempt 1
at 0.100  node: died r0
  to broker Finished g1 1.0 RANK_LOST
  to broker Capacity 2 ranks=1
at 0.200  time passes
at 0.450  time passes
  to r1     Beat
  to broker Beat runs 1.1
  do        ReplaceRank 0
  do        Sample
at 0.900  r0: RankReady
  to r0     Bundle b3 1.2 attempt 1
  to broker Capacity 4 ranks=2
  do        WatchProcess r0
