"""An emulated AWS on loopback for `make run` and the tests: moto, with EBS direct and snapshots as strict as the real ones.

from demo.aws import ACCOUNT, REGION, EmulatedAws, FaultKind

with EmulatedAws() as aws:                          # one at a time in a process; ~1 s for the imports, then milliseconds
    ec2 = aws.client("ec2")                         # a boto3 client of the administrator of ACCOUNT in REGION
    ebs = aws.client("ebs", "222233334444", "us-east-1")     # … of another account and region
    mine = boto3.client("ec2", endpoint_url=aws.endpoint, …) # or any SDK: keys are in aws.credentials(account)
    run = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1,
                            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1}}])

    disk = aws.volume(volume_id)                    # its bytes: .write(offset, data), .read, .discard, .path (a sparse file)
    snapshot = ec2.create_snapshot(VolumeId=volume_id)       # holds what the volume holds now

    aws.deny("ebs:GetSnapshotBlock", principal="Scanner")    # role name, ARN, account or key; also ec2:CreateTags, kms:Decrypt
    aws.fault(FaultKind.WRONG_CHECKSUM, "ebs:GetSnapshotBlock", resource="snap-…/17", times=1)
    aws.fault(FaultKind.THROTTLED, "ec2:CreateSnapshots", after=1, times=3)
    aws.expire_tokens()                             # block and page tokens, now
    aws.clock.advance(3600)                         # tokens, credentials and pending snapshots grow old
    aws.vanish(snapshot_id)                         # somebody else deleted it
    aws.rules.snapshot_seconds = 30                 # pending → completed; also snapshot_polls, stuck_snapshots, snapshot_failures
    aws.rules.late_polls = 2                        # the first looks of DescribeSnapshots do not see it; also late_seconds
    aws.rules.limits.blocks_per_account = 400       # a second; also blocks_per_snapshot, lists_per_account, block_latency_seconds
    aws.rules.disabled_regions.add(("*", "eu-south-1"))
    aws.rules.refused_roles.add(role_arn)           # also external_ids[role_arn] = "…"
    aws.calm()                                      # takes back all of these rules

    aws.log.count("ebs:GetSnapshotBlock")           # or .calls("ec2:*", principal="Scanner"), .actions()
"""

from demo.aws.emulator import ACCOUNT, REGION, EmulatedAws
from demo.aws.rules import FaultKind

__all__ = ["ACCOUNT", "REGION", "EmulatedAws", "FaultKind"]
