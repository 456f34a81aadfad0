"""What a fetch keeps to: limits, hours, licences, the files that are wanted, the mirrors that worked."""
