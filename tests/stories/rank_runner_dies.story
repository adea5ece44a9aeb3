# A runner dies: the task that ran is charged, those behind it start in the next runner.
rank 0

at 0.010  agent: Bundle b1 1.0..2
  do        start runner 1
at 0.100  runner 1: ready
  do        tell runner 1 run 1: 1.0..2 attempt 1, permits 3
at 0.200  runner 1: done 1.0 NONE
  to agent  Done b1 1.0 NONE
at 0.300  runner 1: died 11
  to agent  Done b1 1.1 CRASH
  do        start runner 2
at 0.400  runner 2: ready
  do        tell runner 2 run 2: 1.2 attempt 1, permits 1
at 0.500  runner 2: done 1.2 NONE
  to agent  Done b1 1.2 NONE
