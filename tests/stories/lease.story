# A beat renews the lease of all that a node holds; five seconds of silence end it.
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 1.000  n1: Beat runs=g1:1.0
  at once n1: Beat
at 5.900  time passes
at 6.200  time passes
  record  AttemptFailed 1.0 attempt 1 NODE_FAIL n1 rank -1
at 6.210  people: queue
  shown   job 1 blocked=0 pending=1 running=0 reason=NoNodes
