# A task that dies on one rank and completes on another speaks against the first; the third such task lets it rest.
limits lease_s=1000 client_silence_s=1000
broker with n1 (2 ranks), c1

at 1.000  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 1.100  n1: Finished g1 1.0 CRASH rank=0
  record  AttemptFailed 1.0 attempt 1 CRASH n1 rank 0
  to n1   Kept g1 1.0
  to n1   Grant g2 1.0 attempt 2
at 1.200  n1: Finished g2 1.0 NONE rank=1
  record  OutcomeSettled 1.0 COMPLETED attempt 2 n1 rank 1
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g2 1.0
at 2.000  c1: Submit k2
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g3 2.0 attempt 1
at 2.100  n1: Finished g3 2.0 CRASH rank=0
  record  AttemptFailed 2.0 attempt 1 CRASH n1 rank 0
  to n1   Kept g3 2.0
  to n1   Grant g4 2.0 attempt 2
at 2.200  n1: Finished g4 2.0 NONE rank=1
  record  OutcomeSettled 2.0 COMPLETED attempt 2 n1 rank 1
  record  BatchClosed 2.0..
  to c1   Resolved 2.0 COMPLETED
  to n1   Kept g4 2.0
at 3.000  c1: Submit k3
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0
  to c1   Accepted k3 batch 0 job 3
  to n1   Grant g5 3.0 attempt 1
at 3.100  n1: Finished g5 3.0 CRASH rank=0
  record  AttemptFailed 3.0 attempt 1 CRASH n1 rank 0
  to n1   Kept g5 3.0
  to n1   Grant g6 3.0 attempt 2
at 3.200  n1: Finished g6 3.0 NONE rank=1
  record  OutcomeSettled 3.0 COMPLETED attempt 2 n1 rank 1
  record  BatchClosed 3.0..
  to c1   Resolved 3.0 COMPLETED
  to n1   Rest rank 0 for 60 s: 3 tasks failed there (CRASH) and completed elsewhere
  to n1   Kept g6 3.0
at 3.300  n1: Capacity tasks=1 ranks=1 resting=0
at 3.400  people: nodes
  shown   n1 ranks=1 outstanding=0 rank 0 rests until 63.300: it fell
