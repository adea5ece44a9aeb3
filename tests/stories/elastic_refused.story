# After refusals, and after a start that came to nothing, it waits twice as long each time; what joins ends that.
elastic with p (0 to 1 of 2 ranks)

at 0.000  time passes
  do      ask the broker
  do      ask slurm
at 0.010  broker: tells ready=4 mean=60
at 0.020  slurm: shows
  log     p: asks for one more: no rank is there for it
  do      submit p
at 0.100  slurm: refuses 'Invalid account'
  log     p: Invalid account; tried again in 30 s
at 0.200  people: why p
  shown   4 tasks are ready and 0 with nodes: about 240 rank-seconds
  shown   asks for one more: no rank is there for it
  shown   asks for no more: --max is 1
at 10.000  time passes
  do      ask the broker
at 10.010  broker: tells ready=4 mean=60
at 31.000  time passes
  do      ask the broker
at 31.010  broker: tells ready=4 mean=60
  log     p: asks for one more: no rank is there for it
  do      submit p
at 31.100  slurm: refuses 'Invalid account'
  log     p: Invalid account; tried again in 60 s
at 92.000  time passes
  do      ask the broker
at 92.010  broker: tells ready=4 mean=60
  log     p: asks for one more: no rank is there for it
  do      submit p
at 92.100  slurm: takes 7
  log     p: 7 is submitted
# Its script fails at once. Slurm has forgotten it already: the accounts, or its output, tell.
at 102.000  time passes
  do      ask the broker
  do      ask slurm
at 102.010  broker: tells ready=4 mean=60
at 102.020  slurm: shows
  do      ask slurm how 7 ended
at 102.030  slurm: ended 7 words='FAILED, exit code 1:0'
  do      forget 7
  log     p: 7 has ended: FAILED, exit code 1:0; no rank of it had joined: nothing is asked for within 120 s
at 112.000  time passes
  do      ask the broker
at 112.010  broker: tells ready=4 mean=60
at 230.000  time passes
  do      ask the broker
at 230.010  broker: tells ready=4 mean=60
  log     p: asks for one more: no rank is there for it
  do      submit p
at 230.100  slurm: takes 8
  log     p: 8 is submitted
at 240.000  time passes
  do      ask the broker
  do      ask slurm
at 240.010  broker: tells ready=2 granted=2 mean=60 nodes=8:2:2
  do      note 8 of p, joined
  log     p: 8 has joined with 2 ranks
at 240.020  slurm: shows 8:RUNNING
at 240.030  people: why p
  shown   2 tasks are ready and 2 with nodes: about 180 rank-seconds
  shown   asks for no more: --max is 1
