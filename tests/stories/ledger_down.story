# While the ledger does not commit, nothing new is accepted or granted; the client is told when to try again.
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  ledger: down "disk full"
at 0.030  c1: Submit k2
  at once c1: Refused k2 ledger_unavailable: disk full (again after 0.5 s)
at 0.040  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
at 0.050  people: queue
  shown   job 1 blocked=0 pending=1 running=0 reason=LedgerDown
at 0.060  c1: Ask ls
  at once c1: Answer no {'code': 'ledger_unavailable', 'what': 'the ledger is away: disk full', 'where': 'the broker', 'fix': 'it is tried again all the time; `pyfi info` shows when it is back'}
at 0.100  ledger: up
  to n1   Grant g2 1.1 attempt 1
at 0.600  c1: Submit k2
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
