# What is over a limit is refused with the reason; nothing of it is written.
limits batch_tasks_max=4 payload_bytes_max=100
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 tasks=5
  to c1   Refused k1 protocol: a batch has 1 to 4 tasks and a key of 16 bytes
at 0.020  c1: Submit k2 tasks=2 bytes=101
  to c1   Refused k2 too_large: the arguments of a task take 101 bytes; the limit is 100
at 0.030  c1: Submit k3 socket=sample.werk
  to c1   Refused k3 unknown_socket: there is no socket 'sample.werk'
at 0.040  c1: Submit k4 number=0 first=3
  to c1   Refused k4 protocol: a job begins with batch 0
at 0.050  c1: Submit k5 tasks=4 bytes=100
  record  JobOpened 1 k5 of ada
  record  BatchAdmitted 1.0..3
  to c1   Accepted k5 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
