# A node on which three tasks fail that complete elsewhere is quarantined with a reason, and tried again when it is over.
limits lease_s=1000 client_silence_s=1000
broker with n1 (1 rank), n2 (1 rank), c1

at 1.000  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n2   Mount 1
  to n2   Grant g2 1.1 attempt 1
at 1.100  n1: Finished g1 1.0 ENVIRONMENT
  record  AttemptFailed 1.0 attempt 1 ENVIRONMENT n1 rank 0
  to n1   Kept g1 1.0
at 1.200  n2: Finished g2 1.1 NONE
  record  OutcomeSettled 1.1 COMPLETED attempt 1 n2 rank 0
  to c1   Resolved 1.1 COMPLETED
  to n2   Kept g2 1.1
  to n2   Grant g3 1.0 attempt 2
at 1.300  n2: Finished g3 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 2 n2 rank 0
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 COMPLETED
  to n2   Kept g3 1.0
at 2.000  c1: Submit k2 tasks=2
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..1
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g4 2.0 attempt 1
  to n2   Grant g5 2.1 attempt 1
at 2.100  n1: Finished g4 2.0 ENVIRONMENT
  record  AttemptFailed 2.0 attempt 1 ENVIRONMENT n1 rank 0
  to n1   Kept g4 2.0
at 2.200  n2: Finished g5 2.1 NONE
  record  OutcomeSettled 2.1 COMPLETED attempt 1 n2 rank 0
  to c1   Resolved 2.1 COMPLETED
  to n2   Kept g5 2.1
  to n2   Grant g6 2.0 attempt 2
at 2.300  n2: Finished g6 2.0 NONE
  record  OutcomeSettled 2.0 COMPLETED attempt 2 n2 rank 0
  record  BatchClosed 2.0..
  to c1   Resolved 2.0 COMPLETED
  to n2   Kept g6 2.0
at 3.000  c1: Submit k3 tasks=2
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0..1
  to c1   Accepted k3 batch 0 job 3
  to n1   Grant g7 3.0 attempt 1
  to n2   Grant g8 3.1 attempt 1
at 3.100  n1: Finished g7 3.0 ENVIRONMENT
  record  AttemptFailed 3.0 attempt 1 ENVIRONMENT n1 rank 0
  to n1   Kept g7 3.0
at 3.200  n2: Finished g8 3.1 NONE
  record  OutcomeSettled 3.1 COMPLETED attempt 1 n2 rank 0
  to c1   Resolved 3.1 COMPLETED
  to n2   Kept g8 3.1
  to n2   Grant g9 3.0 attempt 2
at 3.300  n2: Finished g9 3.0 NONE
  record  OutcomeSettled 3.0 COMPLETED attempt 2 n2 rank 0
  record  BatchClosed 3.0..
  to c1   Resolved 3.0 COMPLETED
  to n1   Rest rank 0 for 60 s: 3 tasks failed there (ENVIRONMENT) and completed elsewhere
  to n2   Kept g9 3.0
at 3.400  people: nodes
  shown   n1 ranks=1 outstanding=0 quarantined until 63.300: 3 tasks failed there (ENVIRONMENT) and completed elsewhere
  shown   n2 ranks=1 outstanding=0
at 4.000  c1: Submit k4 tasks=2
  record  JobOpened 4 k4 of ada
  record  BatchAdmitted 4.0..1
  to c1   Accepted k4 batch 0 job 4
  to n2   Grant g10 4.0 attempt 1
at 63.200  time passes
at 63.300  time passes
  to n1   Grant g11 4.1 attempt 1
