# A connection breaks and the same agent comes back: a grant that it never got goes out again, others run on.
broker with n1 (2 ranks), c1

at 0.010  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  c1: Submit k2
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g2 2.0 attempt 1
at 0.030  n1: Hello holds=g1
  at once n1: Welcome 1
  to n1   Mount 1
  to n1   Grant g3 2.0 attempt 1
# Another process of that name is not let in while the first one lives.
at 0.040  n1': Hello
  at once n1': Denied name_in_use: an agent named n1 is alive here
