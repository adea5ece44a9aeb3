# A batch that is sent again under its key is one batch, also after a restart of the broker and after its end.
broker with c1

at 0.010  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
at 0.020  c1: Submit k1 tasks=2 resend=1
  to c1   Accepted k1 batch 0 job 1
at 1.000  broker: restarts
at 1.010  c1: Submit k1 tasks=2 resend=1
  at once c1: Unknown
at 1.020  c1: Hello
  at once c1: Welcome 2
at 1.030  c1: Submit k1 tasks=2 resend=1
  to c1   Accepted k1 batch 0 job 1
at 1.040  c1: Cancel 1
  record  OutcomeSettled 1.0..1 CANCELLED unrun: the task was cancelled
  record  BatchClosed 1.0..
  to c1   Resolved 1.0..1 CANCELLED
  to c1   Cancelled 2
at 1.050  c1: Submit k1 tasks=2 resend=1
  to c1   Accepted k1 batch 0 job 1
at 2.000  broker: restarts
at 2.010  c1: Hello
  at once c1: Welcome 3
# The ended job is not in memory any more: the ledger is asked.
at 2.020  c1: Submit k1 tasks=2 resend=1
  ask     FindJob k1
at 2.030  ledger: answers
  to c1   Accepted k1 batch 0 job 1
# A key that the ledger does not know is a new job.
at 2.040  c1: Submit k2 tasks=1 resend=1
  ask     FindJob k2
at 2.050  ledger: answers
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
