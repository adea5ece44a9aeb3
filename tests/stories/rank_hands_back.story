# What the rank knows of its runner lags: the permits say what has begun, and only what has not is handed back.
rank 0

at 0.010  agent: Bundle b1 1.0..3
  do        start runner 1
at 0.020  agent: Bundle b2 2.0..1
at 0.100  runner 1: ready
  do        tell runner 1 run 1: 1.0..3 attempt 1, permits 4
  do        tell runner 1 run 2: 2.0..1 attempt 1, permits 2
# 1.1 has begun, and its rank does not know yet; 2.0 and 2.1 stay, their permits are given again
at 0.200  agent: Kill b1 1.1..3 RELEASED
  do        take permits of runner 1
at 0.201  agent: Bundle b3 3.0
at 0.202  runner 1: permits 4
  to agent  Done b1 1.2..3 RELEASED
  do        tell runner 1 skip 1 2 4
  do        give runner 1 permits 2
at 0.203  runner 1: done 1.0 NONE
  to agent  Done b1 1.0 NONE
at 0.300  runner 1: done 1.1 NONE
  to agent  Done b1 1.1 NONE
  do        tell runner 1 run 3: 3.0 attempt 1, permits 1
at 0.310  agent: Kill b2 2.0 RELEASED
  do        take permits of runner 1
at 0.311  runner 1: permits 2
  do        give runner 1 permits 2
at 0.320  runner 1: done 2.0 NONE
  to agent  Done b2 2.0 NONE
at 0.400  runner 1: done 2.1 NONE
  to agent  Done b2 2.1 NONE
