# What Slurm shows counts: jobs that nobody noted are adopted or ended, and an unanswered submission is looked up.
elastic with p (0 to 2 of 2 ranks)

at 0.000  time passes
  do      ask the broker
  do      ask slurm
at 0.010  broker: tells ready=400 mean=60 nodes=5:2:2
# One of ours runs, one waits, a third is over --max; one is of another instance.
at 0.020  slurm: shows 5:RUNNING 6:PENDING 7:PENDING x8:PENDING
  do      note 5 of p, joined
  log     p: 5 has joined with 2 ranks
  log     p: 5 was not noted and bears the mark of this pool: adopted
  do      note 6 of p
  log     p: 6 was not noted and bears the mark of this pool: adopted
  do      note 7 of p
  log     p: 7 was not noted, and nobody wants it: over --max
  do      cancel 7 if it waits
at 10.000  time passes
  do      ask the broker
  do      ask slurm
at 10.010  broker: tells ready=400 mean=60 nodes=5:2:2
at 10.020  slurm: shows 5:RUNNING 6:FAILED 7:CANCELLED x8:PENDING
  do      ask slurm how 6 ended
  do      forget 7
  log     p: 7 has ended: CANCELLED
at 10.030  slurm: ended 6
  do      forget 6
  log     p: 6 has ended: FAILED; no rank of it had joined: nothing is asked for within 30 s
# Nobody answers the next submission. The job was there all the same.
at 41.000  time passes
  do      ask the broker
  do      ask slurm
at 41.010  broker: tells ready=400 mean=60 nodes=5:2:2
at 41.020  slurm: shows 5:RUNNING
  log     p: asks for one more: 6000 s of work would be left for each of 2 ranks and its own 2
  do      submit p
at 71.100  slurm: hangs
  log     p: no answer from Slurm in 30 s; tried again in 60 s
  do      ask the broker
  do      ask slurm
at 71.110  broker: tells ready=400 mean=60 nodes=5:2:2
at 71.120  slurm: shows 5:RUNNING 9:PENDING
  do      note 9 of p
  log     p: 9 was not noted and bears the mark of this pool: adopted
# The controller is away, then the broker: nothing is decided.
at 91.000  time passes
  do      ask the broker
  do      ask slurm
at 91.010  broker: tells ready=400 mean=60 nodes=5:2:2
at 91.020  slurm: silent
at 91.030  people: why p
  shown   400 tasks are ready and 0 with nodes: about 24000 rank-seconds
  shown   asks for no more: slurm does not answer: no answer from Slurm in 30 s
at 101.000  time passes
  do      ask the broker
at 101.010  broker: silent
# The pool is removed: what waits is ended, what runs drains.
at 115.000  time passes
  do      ask the broker
  do      ask slurm
at 115.005  people: remove p
at 115.010  broker: tells ready=400 mean=60 nodes=5:2:2
at 115.020  slurm: shows 5:RUNNING 9:PENDING
  do      give back 5
  do      cancel 9 if it waits
at 125.000  time passes
  do      ask the broker
  do      ask slurm
at 125.010  broker: tells ready=400 mean=60
at 125.020  slurm: shows 5:COMPLETED 9:CANCELLED
  do      forget 5
  log     p: 5 has ended: COMPLETED
  do      forget 9
  log     p: 9 has ended: CANCELLED
  stopped
