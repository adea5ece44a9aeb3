# A task waits for those that it needs; their results go with it. What needs a task that failed is SKIPPED.
broker with n1 (2 ranks), c1

at 0.010  c1: Submit k1 tasks=4 needs=2:0.0+0.1,3:0.2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..3
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
at 0.020  people: queue
  shown   job 1 blocked=2 pending=0 running=2 reason=Dependency
at 0.030  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
at 0.040  n1: Finished g1 1.1 NONE
  record  OutcomeSettled 1.1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.1 COMPLETED
  to n1   Kept g1 1.1
  to n1   Grant g2 1.2 attempt 1
at 0.050  n1: Finished g2 1.2 ERROR error="ValueError"
  record  OutcomeSettled 1.2 FAILED attempt 1 n1 rank 0: ValueError
  record  OutcomeSettled 1.3 SKIPPED unrun: task 1.2, which this one depends on, did not complete
  record  BatchClosed 1.0..
  to c1   Resolved 1.2 FAILED
  to n1   Kept g2 1.2
  to c1   Resolved 1.3 SKIPPED
# The result of a job that has ended is read from the ledger.
at 0.060  c1: Submit k2 needs=0:1.0
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  ask     ReadValues 1.0
at 0.070  ledger: answers
  to n1   Grant g3 2.0 attempt 1
# A task cannot need one that comes after it.
at 0.080  c1: Submit k3 tasks=2 needs=0:0.1
  to c1   Refused k3 protocol: task 0 depends on task 1 of its job, which does not come before it
