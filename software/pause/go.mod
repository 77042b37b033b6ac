module software/pause

go 1.25.0
