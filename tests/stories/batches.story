# Batches of a job come in the order of their numbers; one that does not follow is refused, one too many as well.
broker with c1

at 0.010  c1: Submit k1 tasks=2 last=no
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1, more follow
  to c1   Accepted k1 batch 0 job 1
at 0.020  c1: Submit k1 number=2 first=4 tasks=2
  to c1   Refused k1 protocol: batch 2 does not follow the last one of its job
at 0.030  c1: Submit k1 number=1 first=2 tasks=2
  record  BatchAdmitted 1.2..3
  to c1   Accepted k1 batch 1 job 1
at 0.040  c1: Submit k1 number=2 first=4 tasks=1
  to c1   Refused k1 protocol: batch 2 does not follow the last one of its job
at 0.050  c1: Submit k1 number=1 first=2 tasks=2 resend=1
  to c1   Accepted k1 batch 1 job 1
# Another user's job is not opened again by its key.
at 0.060  x1: Hello
  at once x1: Welcome 1
at 0.070  x1: Submit k1 number=1 first=2 tasks=2 resend=1
  to x1   Refused k1 refused: this job belongs to somebody else
