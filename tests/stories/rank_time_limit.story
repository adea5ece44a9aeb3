# At its time limit a task is ended by SIGTERM, and two seconds later by SIGKILL; the next one has its own time.
rank 0

at 0.010  agent: Bundle b1 1.0..1 time_limit=1
  do        start runner 1
at 0.100  runner 1: ready
  do        tell runner 1 run 1: 1.0..1 attempt 1, permits 2
at 0.900  agent: Beat
at 1.100  time passes
  to agent  RankBeat
  do        take permits of runner 1
at 1.101  runner 1: permits 1
  do        kill runner 1 SIGTERM
at 3.101  time passes
  to agent  RankBeat
  do        kill runner 1 SIGKILL
at 3.200  runner 1: died 9
  to agent  Done b1 1.0 TIME_LIMIT
  do        start runner 2
