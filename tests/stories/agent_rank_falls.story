# A rank that dies three times, with no task completed in between, rests and is not replaced until the time is over.
limits heartbeat_s=1000 lease_s=10000 quarantine_s=5
agent n1 with 2 ranks

at 1.000  node: died r0
  to r1     Beat
  to broker Beat
  to broker Capacity 2 ranks=1
  do        Sample
at 1.400  time passes
  do        ReplaceRank 0
at 2.000  r0: RankReady
  to broker Capacity 4 ranks=2
  do        WatchProcess r0
at 3.000  node: died r0
  to broker Capacity 2 ranks=1
at 3.400  time passes
  do        ReplaceRank 0
at 4.000  r0: RankReady
  to broker Capacity 4 ranks=2
  do        WatchProcess r0
at 5.000  node: died r0
  to broker Capacity 2 ranks=1, rank 0 rests for 5 s: its process ended again and again; the last time: rank 0 died: signal 9
at 5.400  time passes
at 6.000  r1: RankBeat
at 10.000  time passes
  to broker Capacity 2 ranks=1
  do        ReplaceRank 0
at 11.000  r0: RankReady
  to broker Capacity 4 ranks=2
  do        WatchProcess r0
# It is on probation: the next fall is enough, and the rest is twice as long.
at 12.000  node: died r0
  to broker Capacity 2 ranks=1, rank 0 rests for 10 s: its process ended again and again; the last time: rank 0 died: signal 9
