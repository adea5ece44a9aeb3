# All nodes are quarantined: tasks wait, who asks is told why, and one that is released works at once.
limits lease_s=1000 client_silence_s=1000
broker with n1 (1 rank), n2 (1 rank), c1

at 0.010  c1: Ask node_quarantine name=n1 seconds=60 reason=disk
  at once c1: Answer ok {'name': 'n1', 'reason': 'disk', 'until': 60.01}
at 0.020  c1: Ask node_quarantine name=n2 seconds=60 reason=fan
  at once c1: Answer ok {'name': 'n2', 'reason': 'fan', 'until': 60.02}
at 0.030  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
at 0.040  people: queue
  shown   job 1 blocked=0 pending=1 running=0 reason=NodesQuarantined
at 0.050  people: nodes
  shown   n1 ranks=1 outstanding=0 quarantined until 60.010: disk
  shown   n2 ranks=1 outstanding=0 quarantined until 60.020: fan
at 0.060  c1: Ask node_release name=n2
  at once c1: Answer ok {'name': 'n2', 'lifted': ['node']}
  to n2   Mount 1
  to n2   Grant g1 1.0 attempt 1
