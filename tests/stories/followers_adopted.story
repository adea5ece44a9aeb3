# After a restart, what was made from results of others on its node goes on only if the ledger has those results, or will have.
broker with n1 (2 ranks), c1

at 0.005  n1: Capacity tasks=8 ranks=2
at 0.010  c1: Submit k1 tasks=3 needs=1:0.0,2:0.1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n1   Grant g2 1.1 attempt 1 after g1 1.0, g3 1.2 attempt 1 after g2 1.1
at 0.100  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
at 0.200  broker: restarts
  ask     ReadValues 1.0
at 0.210  n1: Hello holds=g2,g3
  at once n1: Welcome 2
  to n1   Mount 1
at 0.220  n1: Finished g2 1.1 NONE
  record  OutcomeSettled 1.1 COMPLETED attempt 1 n1 rank 0
  to n1   Kept g2 1.1
at 0.230  n1: Finished g3 1.2 NONE
  record  OutcomeSettled 1.2 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 1.0..
  to n1   Kept g3 1.2
# n1 falls silent, n2 makes the first result anew; then the broker starts again and n1 is back with what it made of its own.
at 2.240  n1: Beat
  at once n1: Beat
at 2.250  time passes
at 2.400  c1: Hello
  at once c1: Welcome 2
at 2.405  n1: Capacity tasks=8 ranks=2
at 2.406  n1: Beat
  at once n1: Beat
at 2.410  c1: Submit k2 tasks=2 needs=1:0.0
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..1
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g4 2.0 attempt 1
  to n1   Grant g5 2.1 attempt 1 after g4 2.0
at 7.300  n2: Hello ranks=1
  at once n2: Welcome 2
at 7.305  n2: Capacity tasks=1 ranks=1
at 7.600  time passes
  to n2   Mount 1
  to n2   Grant g6 2.0 attempt 1
at 7.700  n2: Finished g6 2.0 NONE
  record  OutcomeSettled 2.0 COMPLETED attempt 1 n2 rank 0
  to c1   Resolved 2.0 COMPLETED
  to n2   Kept g6 2.0
  to n2   Grant g7 2.1 attempt 1
at 7.800  broker: restarts
  ask     ReadValues 2.0
at 7.810  n1: Hello holds=g4,g5
  at once n1: Welcome 3
  to n1   Cancel g4 all
  to n1   Cancel g5 all
at 7.820  n1: Finished g5 2.1 NONE
  to n1   Kept g5 2.1
