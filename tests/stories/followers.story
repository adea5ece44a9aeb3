# What takes results of tasks that a node runs goes to that node before they are there; what it makes of them counts after them.
broker with n1 (4 ranks), c1

at 0.005  n1: Capacity tasks=8 ranks=4
at 0.010  c1: Submit k1 tasks=5 needs=1:0.0,2:0.1,3:0.1,4:0.2+0.3
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..4
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n1   Grant g2 1.1 attempt 1 after g1 1.0, g3 1.2..3 attempt 1 after g2 1.1 after g2 1.1, g4 1.4 attempt 1 after g3 1.2 after g3 1.3
at 0.020  people: queue
  shown   job 1 blocked=4 pending=0 running=1 reason=Dependency
at 0.030  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
at 0.040  n1: Finished g2 1.1 NONE
  record  OutcomeSettled 1.1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.1 COMPLETED
  to n1   Kept g2 1.1
# The result of 1.4 came before those that it takes: it cannot be, and is a task handed back.
at 0.050  n1: Finished g4 1.4 NONE
  to n1   Kept g4 1.4
# A task that did not complete: those after it are skipped.
at 0.060  n1: Finished g3 1.2 ERROR error="ValueError"
  record  OutcomeSettled 1.2 FAILED attempt 1 n1 rank 0: ValueError
  record  OutcomeSettled 1.4 SKIPPED unrun: task 1.2, which this one depends on, did not complete
  to c1   Resolved 1.2 FAILED
  to n1   Kept g3 1.2
  to c1   Resolved 1.4 SKIPPED
at 0.070  n1: Finished g3 1.3 NONE
  record  OutcomeSettled 1.3 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 1.0..
  to c1   Resolved 1.3 COMPLETED
  to n1   Kept g3 1.3
# A task that is tried again: the agent sends back what follows it, and it goes out again with the task.
at 0.100  c1: Submit k2 tasks=2 needs=1:0.0 retries=1
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..1
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g5 2.0 attempt 1
  to n1   Grant g6 2.1 attempt 1 after g5 2.0
at 0.110  n1: Finished g5 2.0 ERROR error="ValueError"
  record  AttemptFailed 2.0 attempt 1 ERROR n1 rank 0
  to n1   Kept g5 2.0
  to n1   Grant g7 2.0 attempt 2
at 0.111  n1: Finished g6 2.1 RELEASED
  to n1   Kept g6 2.1
at 0.120  n1: Finished g7 2.0 NONE
  record  OutcomeSettled 2.0 COMPLETED attempt 2 n1 rank 0
  to c1   Resolved 2.0 COMPLETED
  to n1   Kept g7 2.0
  to n1   Grant g8 2.1 attempt 1
at 0.130  n1: Finished g8 2.1 NONE
  record  OutcomeSettled 2.1 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 2.0..
  to c1   Resolved 2.1 COMPLETED
  to n1   Kept g8 2.1
# A node that goes takes none of them with it.
at 0.200  c1: Submit k3 tasks=3 needs=1:0.0,2:0.1
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0..2
  to c1   Accepted k3 batch 0 job 3
  to n1   Grant g9 3.0 attempt 1
  to n1   Grant g10 3.1 attempt 1 after g9 3.0, g11 3.2 attempt 1 after g10 3.1
at 0.210  n2: Hello ranks=1
  at once n2: Welcome 1
at 0.220  n2: Capacity tasks=4 ranks=1
at 0.300  n1: Goodbye stopped
  to n2   Mount 1
  to n2   Grant g12 3.0 attempt 1
  to n2   Grant g13 3.1 attempt 1 after g12 3.0, g14 3.2 attempt 1 after g13 3.1
# What follows a task that is cancelled is skipped, and ended at the node.
at 0.400  c1: Cancel 3.0
  record  OutcomeSettled 3.0 CANCELLED unrun: the task was cancelled
  record  OutcomeSettled 3.1 SKIPPED unrun: task 3.0, which this one depends on, did not complete
  record  OutcomeSettled 3.2 SKIPPED unrun: task 3.1, which this one depends on, did not complete
  record  BatchClosed 3.0..
  to c1   Resolved 3.0 CANCELLED
  to n2   Cancel g12 3.0
  to c1   Cancelled 1
  to c1   Resolved 3.1 SKIPPED
  to n2   Cancel g13 3.1
  to c1   Resolved 3.2 SKIPPED
  to n2   Cancel g14 3.2
