# A new broker reads the ledger and waits two seconds: what agents still hold is adopted, the rest is queued.
broker with n1 (1 rank), n2 (1 rank), c1

at 0.010  c1: Submit k1 tasks=3
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n2   Mount 1
  to n2   Grant g2 1.1 attempt 1
at 0.500  broker: restarts
at 0.510  n1: Beat
  at once n1: Unknown
at 0.520  n1: Hello holds=g1
  at once n1: Welcome 2
  to n1   Mount 1
at 0.530  n1: Capacity tasks=1 ranks=1
at 0.540  people: queue
  shown   job 1 blocked=0 pending=2 running=1 reason=Recovering
# The adopted task ends under the grant of the earlier broker.
at 0.600  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to n1   Kept g1 1.0
at 2.600  time passes
  ask     ReadPayloads 1.0..
at 2.610  ledger: answers
  to n1   Grant g3 1.1 attempt 1
# n2 comes too late with its task: it is told to drop it.
at 2.700  n2: Hello holds=g2
  at once n2: Welcome 2
  to n2   Cancel g2 all
