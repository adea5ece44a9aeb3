# Nothing of a job on hold starts: what a node has not started comes back, what runs and fails waits, also after a restart.
broker with n1 (2 ranks), c1, x1

at 0.010  c1: Submit k1 tasks=4 retries=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..3
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
at 0.020  n1: Beat runs=g1:1.0
  at once n1: Beat
at 0.030  x1: Ask job_hold job=1
  to x1   Answer no {'code': 'refused', 'what': 'job 1 belongs to somebody else', 'where': 'job_hold', 'fix': ''}
at 0.040  c1: Ask job_hold job=1
  record  HoldChanged 1 on hold
  to n1   Preempt g1 1.0..1 unstarted
  to c1   Answer ok {'job': 1, 'on_hold': True, 'changed': True, 'running': 1, 'open': 4}
# What the node had not started.
at 0.050  n1: Finished g1 1.1 RELEASED
  to n1   Kept g1 1.1
at 0.060  n1: Finished g1 1.0 ERROR
  record  AttemptFailed 1.0 attempt 1 ERROR n1 rank 0
  to n1   Kept g1 1.0
at 0.070  people: queue
  shown   job 1 blocked=0 pending=4 running=0 reason=JobHeldUser
at 0.080  people: why 1.1
  shown   1.1 PENDING JobHeldUser
  shown     job 1 is on hold
  shown     It would go on after `pyfi release 1`.
# Twice is once.
at 0.090  c1: Ask job_hold job=1
  to c1   Answer ok {'job': 1, 'on_hold': True, 'changed': False, 'running': 0, 'open': 4}
# A job that is on hold from its start, and one that takes its result.
at 0.100  c1: Submit k2 tasks=1 hold=1
  record  JobOpened 2 k2 of ada
  record  HoldChanged 2 on hold
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
at 0.110  c1: Submit k3 tasks=1 needs=0:2.0
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0
  to c1   Accepted k3 batch 0 job 3
at 0.120  people: queue
  shown   job 1 blocked=0 pending=4 running=0 reason=JobHeldUser
  shown   job 2 blocked=0 pending=1 running=0 reason=JobHeldUser
  shown   job 3 blocked=1 pending=0 running=0 reason=Dependency
at 0.130  people: why 3.0
  shown   3.0 PENDING Dependency
  shown     it takes the results of 2.0 (PENDING, on hold)
  shown     `pyfi why 2.0` tells why that one has not ended.
# Its other one that is held takes a result that comes.
at 0.140  c1: Submit k4 tasks=1
  record  JobOpened 4 k4 of ada
  record  BatchAdmitted 4.0
  to c1   Accepted k4 batch 0 job 4
  to n1   Grant g2 4.0 attempt 1
at 0.150  c1: Submit k5 tasks=2 needs=0:4.0 hold=1
  record  JobOpened 5 k5 of ada
  record  HoldChanged 5 on hold
  record  BatchAdmitted 5.0..1
  to c1   Accepted k5 batch 0 job 5
at 0.155  people: why 5.0
  shown   5.0 PENDING JobHeldUser
  shown     job 5 is on hold
  shown     it takes the results of 4.0 (RUNNING)
  shown     It would go on after `pyfi release 5`.
at 0.160  n1: Finished g2 4.0 NONE
  record  OutcomeSettled 4.0 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 4.0..
  to c1   Resolved 4.0 COMPLETED
  to n1   Kept g2 4.0
at 0.170  people: queue
  shown   job 1 blocked=0 pending=4 running=0 reason=JobHeldUser
  shown   job 2 blocked=0 pending=1 running=0 reason=JobHeldUser
  shown   job 3 blocked=1 pending=0 running=0 reason=Dependency
  shown   job 5 blocked=0 pending=2 running=0 reason=JobHeldUser
# A new broker knows it.
at 0.200  broker: restarts
  ask     ReadValues 4.0
at 0.210  n1: Hello
  at once n1: Welcome 2
at 0.220  n1: Capacity tasks=2 ranks=2
at 2.210  time passes
at 2.230  c1: Hello
  at once c1: Welcome 2
at 2.240  c1: Ask job_release job=1
  record  HoldChanged 1 released
  to c1   Answer ok {'job': 1, 'on_hold': False, 'changed': True, 'running': 0, 'open': 4}
  ask     ReadPayloads 1.0..
at 2.250  ledger: answers
  to n1   Mount 1
  to n1   Grant g3 1.0 attempt 2, g4 1.1 attempt 1
# A cancelled one is not on the node.
at 2.260  c1: Cancel 5
  record  OutcomeSettled 5.0..1 CANCELLED unrun: the task was cancelled
  record  BatchClosed 5.0..
  to c1   Cancelled 2
at 2.270  c1: Ask job_release job=5
  to c1   Answer no {'code': 'not_found', 'what': 'there is no unfinished job 5', 'where': 'job_release', 'fix': '`pyfi queue -u` lists them'}
at 2.280  c1: Ask job_release job=2
  record  HoldChanged 2 released
  to c1   Answer ok {'job': 2, 'on_hold': False, 'changed': True, 'running': 0, 'open': 1}
