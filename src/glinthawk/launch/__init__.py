"""What a run starts and finds: processes, clusters, actors; who has died is started again."""
