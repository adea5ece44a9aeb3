# A backlog makes it ask for allocations, one first; what is idle goes, by draining.
elastic with p (0 to 4 of 2 ranks)

at 0.000  time passes
  do      ask the broker
  do      ask slurm
at 0.010  broker: tells
at 0.020  slurm: shows
# Nothing of ours is in Slurm: the next rounds ask the broker only.
at 10.000  time passes
  do      ask the broker
at 10.010  broker: tells ready=200
  log     p: asks for one more: no rank is there for it
  do      submit p
at 10.500  slurm: takes 77
  log     p: 77 is submitted
at 20.000  time passes
  do      ask the broker
  do      ask slurm
at 20.010  broker: tells ready=200
at 20.020  slurm: shows 77:PENDING
at 20.030  people: why p
  shown   200 tasks are ready and 0 with nodes: about 0 rank-seconds; 200 of functions that have not been timed yet
  shown   asks for no more: one at a time until the first has joined
# It has joined, but nobody knows yet how long a task takes.
at 30.000  time passes
  do      ask the broker
  do      ask slurm
at 30.010  broker: tells ready=198 granted=2 nodes=77:2:2
  do      note 77 of p, joined
  log     p: 77 has joined with 2 ranks
at 30.020  slurm: shows 77:RUNNING
at 30.030  people: why p
  shown   198 tasks are ready and 2 with nodes: about 2 rank-seconds; 200 of functions that have not been timed yet
  shown   asks for no more: 0 s of known work would be left for each of 2 ranks and its own 2, under 30 s
# The first tasks still run after 20 s: so much each of the others takes, at least.
at 50.000  time passes
  do      ask the broker
  do      ask slurm
at 50.010  broker: tells ready=198 granted=2 nodes=77:2:2
at 50.020  slurm: shows 77:RUNNING
  log     p: asks for one more: 995 s of known work would be left for each of 2 ranks and its own 2
  do      submit p
  log     p: asks for one more: 664 s of known work would be left for each of 4 ranks and its own 2
  do      submit p
  log     p: asks for one more: 498 s of known work would be left for each of 6 ranks and its own 2
  do      submit p
at 50.500  slurm: takes 78
  log     p: 78 is submitted
at 50.600  slurm: takes 79
  log     p: 79 is submitted
at 50.700  slurm: takes 80
  log     p: 80 is submitted
# All is done; one still runs a task.
at 60.000  time passes
  do      ask the broker
  do      ask slurm
at 60.010  broker: tells granted=1 mean=30 nodes=77:2:0,78:2:1,79:2:0,80:2:0
  do      note 78 of p, joined
  log     p: 78 has joined with 2 ranks
  do      note 79 of p, joined
  log     p: 79 has joined with 2 ranks
  do      note 80 of p, joined
  log     p: 80 has joined with 2 ranks
at 60.020  slurm: shows 77:RUNNING 78:RUNNING 79:RUNNING 80:RUNNING
at 121.000  time passes
  do      ask the broker
  do      ask slurm
at 121.010  broker: tells granted=1 mean=30 nodes=77:2:0,78:2:1,79:2:0,80:2:0
at 121.020  slurm: shows 77:RUNNING 78:RUNNING 79:RUNNING 80:RUNNING
  log     p: 77 is given back: without work for 61 s
  log     p: 79 is given back: without work for 61 s
  log     p: 80 is given back: without work for 61 s
  do      give back 77
  do      give back 79
  do      give back 80
# What drains and has gone is forgotten; 78 is kept.
at 131.000  time passes
  do      ask the broker
  do      ask slurm
at 131.010  broker: tells granted=1 mean=30 nodes=78:2:1
at 131.020  slurm: shows 77:COMPLETED 78:RUNNING 79:COMPLETED 80:COMPLETED
  do      forget 77
  log     p: 77 has ended: COMPLETED
  do      forget 79
  log     p: 79 has ended: COMPLETED
  do      forget 80
  log     p: 80 has ended: COMPLETED
