"""Amazon Web Services: accounts, instances, snapshots, events and responses, through boto3."""
