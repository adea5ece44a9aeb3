# A task that waits is handed back untouched, the one that runs is ended by signal; a drain finishes what runs.
rank 0

at 0.010  agent: Bundle b1 1.0..2
  do        start runner 1
at 0.100  runner 1: ready
  do        tell runner 1 run 1: 1.0..2 attempt 1, permits 3
at 0.200  agent: Kill b1 1.2 RELEASED
  do        take permits of runner 1
at 0.201  runner 1: permits 2
  to agent  Done b1 1.2 RELEASED
  do        tell runner 1 skip 1 2 3
  do        give runner 1 permits 1
at 0.300  agent: Kill b1 1.0 CANCELLED
  do        take permits of runner 1
at 0.301  runner 1: permits 1
  do        kill runner 1 SIGTERM
at 0.400  runner 1: died 15
  to agent  Done b1 1.0 CANCELLED
  do        start runner 2
at 0.500  runner 2: ready
  do        tell runner 2 skip 2 1 2
  do        tell runner 2 run 2: 1.1..2 attempt 1, permits 1
at 0.600  agent: Stop drain=1
  do        take permits of runner 2
at 0.601  runner 2: permits 0
at 0.700  runner 2: done 1.1 NONE
  to agent  Done b1 1.1 NONE
  do        tell runner 2 stop
