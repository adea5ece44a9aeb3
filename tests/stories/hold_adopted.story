# What a node holds of a job on hold is asked for again when it says hello, to the same broker or to the next; what runs is adopted.
broker with n1 (2 ranks), c1

at 0.010  c1: Submit k1 tasks=3
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
at 0.020  n1: Beat runs=g1:1.0
  at once n1: Beat
at 0.030  c1: Ask job_hold job=1
  record  HoldChanged 1 on hold
  to n1   Preempt g1 1.0..1 unstarted
  to c1   Answer ok {'job': 1, 'on_hold': True, 'changed': True, 'running': 1, 'open': 3}
# That was lost with the connection.
at 0.040  n1: Hello holds=g1
  at once n1: Welcome 1
  to n1   Mount 1
  to n1   Preempt g1 1.0..1 unstarted
at 0.050  n1: Capacity tasks=2 ranks=2
at 0.100  broker: restarts
at 0.110  n1: Hello holds=g1
  at once n1: Welcome 2
  to n1   Mount 1
  to n1   Preempt g1 1.0..1 unstarted
at 0.120  n1: Capacity tasks=2 ranks=2
at 0.130  n1: Finished g1 1.1 RELEASED
  to n1   Kept g1 1.1
at 2.200  time passes
at 2.210  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to n1   Kept g1 1.0
at 2.220  c1: Hello
  at once c1: Welcome 2
at 2.230  c1: Ask job_release job=1
  record  HoldChanged 1 released
  to c1   Answer ok {'job': 1, 'on_hold': False, 'changed': True, 'running': 0, 'open': 2}
  ask     ReadPayloads 1.0..
at 2.240  ledger: answers
  to n1   Grant g2 1.1..2 attempt 1
