"""An emulated AWS on loopback for `make run` and the tests: moto, with EBS direct and snapshots as strict as the real ones.

from demo.aws import ACCOUNT, REGION, EmulatedAws, FaultKind

with EmulatedAws() as aws:                          # one at a time in a process; ~1 s for the imports, then milliseconds
    ec2 = aws.client("ec2")                         # a boto3 client of the administrator of ACCOUNT in REGION, no retries
    ebs = aws.client("ebs", "222233334444", "us-east-1")     # … of another account and region
    mine = boto3.client("ec2", endpoint_url=aws.endpoint, …) # or any SDK: keys are in aws.credentials(account)
    run = ec2.run_instances(ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1,
                            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1}}])

    disk = aws.volume(volume_id)                    # its bytes: .write(offset, data), .read, .fill, .discard, .path (a sparse file)
    snapshot = ec2.create_snapshot(VolumeId=volume_id)       # holds what the volume holds now

    # who may do what: role name, ARN, account or access key; also what calls imply: ec2:CreateTags, kms:Decrypt
    aws.deny("ebs:GetSnapshotBlock", principal="Scanner", resource="snap-…")  # aws.allow(…) takes it back
    aws.restrict("Scanner", policy)                 # no more than this IAM policy (a dict) allows, conditions on tags included
    aws.rules.refused_roles.add(role_arn)           # also external_ids[role_arn] = "…"
    aws.rules.disabled_regions.add(("*", "eu-south-1"))

    # what goes wrong: the requests that match, after the first `after` of them, `times` times (None: always)
    aws.fault(FaultKind.WRONG_CHECKSUM, "ebs:GetSnapshotBlock", resource="snap-…/17", times=1)
    aws.fault(FaultKind.THROTTLED, "ec2:CreateSnapshots", after=1, times=3)
    aws.fault(FaultKind.ERROR, "ec2:CreateSnapshots", code="SnapshotCreationPerVolumeRateExceeded")
    aws.fault(FaultKind.HANG_AFTER, "ec2:CreateSnapshots", seconds=5)        # it happened, but nobody hears of it
    aws.expire_tokens()                             # block and page tokens, now
    aws.clock.advance(3600)                         # tokens, credentials and pending snapshots grow old
    aws.vanish(snapshot_id)                         # somebody else deleted it

    # how slow and scarce everything is
    aws.rules.snapshot_seconds = 30                 # pending → completed; also snapshot_polls, stuck_snapshots, snapshot_failures
    aws.rules.late_polls = 2                        # the first looks of DescribeSnapshots do not see it; also late_seconds
    aws.rules.limits.blocks_per_account = 400       # a second; also blocks_per_snapshot, lists_per_account, burst_seconds, …
    aws.calm()                                      # takes back all of these rules

    aws.state_changed(instance_id, "running")       # an EventBridge event into aws.queue() (an SQS URL); announce() sends them all
    aws.make_instance_store(instance_id)            # no EBS volume any more
    aws.crowd(50_000, account)                      # so many instances to list, at the cost of one

    aws.log.count("ebs:GetSnapshotBlock")           # or .calls("ec2:*", principal="Scanner", failed=True), .actions(), .clear()

`demo.aws.estate.fill(aws)` runs the three demo machines. `python -m demo.aws --estate --ready-file F` serves the same in a
process of its own (for `make run` and measurements); `demo.aws.control.Remote` changes things there. In tests: a fixture of
module scope or less, since a second emulator cannot start in a process before the first one stopped.
"""

from demo.aws.emulator import ACCOUNT, REGION, EmulatedAws
from demo.aws.rules import FaultKind

__all__ = ["ACCOUNT", "REGION", "EmulatedAws", "FaultKind"]
