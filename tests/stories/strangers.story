# Who has not said hello is told so; who speaks another protocol is not let in; who goes leaves its job to the ledger.
broker with n1 (1 rank)

at 0.010  c1: Submit k1
  at once c1: Unknown
at 0.020  n2: Capacity tasks=1 ranks=1
  at once n2: Unknown
at 0.030  c1: Hello version=99
  at once c1: Denied version: this broker speaks protocol 5, c1 speaks 99
at 0.040  n1: Hello life=2
  at once n1: Denied name_in_use: an agent named n1 is alive here
at 0.050  c1: Hello
  at once c1: Welcome 1
at 0.060  c1: Submit k1 tasks=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.070  loop: unreachable c1
# Nobody listens, so nothing is pushed; the result is in the ledger, and a page tells it.
at 0.080  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 1.0..
  to n1   Kept g1 1.0
at 0.090  c2: Hello
  at once c2: Welcome 1
at 0.100  c2: Watch 1
  ask     ReadPage job 1
at 0.110  ledger: answers
  to c2   Page job 1 of 1: 1.0 COMPLETED
